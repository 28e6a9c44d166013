from __future__ import annotations
import random
from datetime import timedelta
import pytest
from collections.abc import AsyncIterator
from tests.earning import ENVIRONMENT, Earning, earning_world, event
from paymaster.db import outbox
from paymaster.earn import reward, slice as slices
from paymaster.earn.reversal import Reverse, reverse
from tests.store.test_earn_slices import check, in_transit, ONCE, NAMES

@pytest.fixture
async def earning(postgres) -> AsyncIterator[Earning]:
    async with earning_world(postgres, cells=3) as made:
        made.slice_rewards = 3
        yield made

class Fifo:
    def __init__(self, e): self.e=e; self.at={1:0,2:0,3:0}; self.old=[]; self.carried=0
    async def step(self, cell, rnd=None):
        _, ms = await self.e.world.read(lambda tx: outbox.after(tx, self.at[cell], 100000), cell)
        for m in ms:
            self.at[cell]=m.seq
            # seq of commit boundary: `after` filters on commit last_seq, so skip older ones
            if m.target_cell is None or (cell,m.message_id) in self.seen(): continue
            await self.e.deliver(cell,m); self.old.append((cell,m)); self.carried+=1
            return True
        return False
    def seen(self): return {(c,m.message_id) for c,m in self.old}
    async def dup(self, rnd):
        if self.old:
            c,m=rnd.choice(self.old); assert await self.e.deliver(c,m)==0
    async def drain(self, most=300):
        n=quiet=0
        while quiet<2:
            went=False
            for c in (1,2,3):
                while await self.step(c):
                    went=True; n+=1
                    if n>most: return None
                if await self.e.world.run(reward.retry_awaiting, c): went=True
            quiet=0 if went else quiet+1
        return n

async def waiting(e):
    out=[]
    for c in (1,2,3):
        out += [(c,*r) for r in await e.world.read(lambda tx: tx.tuples("SELECT id, amount FROM reward WHERE state='awaiting_funds'"), c)]
    return out

async def setup(e, budget, policy):
    camp = await e.put_campaign(when_exhausted=policy)
    for n,r in (("small","0.50"),("mid","1.00"),("big","2.50")):
        await e.put_task(ONCE, name=n, reward=r)
    await e.fund(camp.number, budget)
    await e.add_users(*NAMES)
    return camp.number

async def test_leftover(earning):
    e=earning
    c = await setup(e, "3.00", "refuse")
    two=[n for n,r in e.users.items() if r.cell==2]
    f=Fifo(e)
    for n in two[:2]:
        await e.send({**event(n,n,"done"),"task":"big"})
    n=await f.drain()
    print("carried", n, await waiting(e), [await e.budget(c,x) for x in (1,2,3)])
    await check(e,c)
    assert n is not None

@pytest.mark.parametrize("seed", range(8))
async def test_random(earning, seed):
    e=earning; rnd=random.Random(seed)
    policy=rnd.choice(["refuse","wait"])
    budget=rnd.choice(["3.00","7.50","12.00","20.00","29.00"])
    c=await setup(e,budget,policy)
    todo=[(n,t) for n in NAMES for t in ("small","mid","big")]
    rnd.shuffle(todo)
    f=Fifo(e)
    for _ in range(60):
        what=rnd.choice(["done","done","done","relay","relay","relay","dup","reverse","idle","retry","fund"])
        cell=rnd.choice([1,2,3])
        if what=="done":
            for _ in range(rnd.randrange(1,3)):
                if todo:
                    n,t=todo.pop(); await e.send({**event(n+t,n,"done"),"task":t})
        elif what=="relay": await f.step(cell)
        elif what=="dup": await f.dup(rnd)
        elif what=="reverse":
            got=await e.world.read(lambda tx: tx.value("SELECT id FROM reward WHERE state='credited' ORDER BY id LIMIT 1"),cell)
            if got and rnd.random()<.5: await e.world.run(lambda tx: reverse(tx,[Reverse(got,"r")]),cell)
        elif what=="idle":
            e.world.clock.advance(timedelta(minutes=rnd.randrange(3)))
            now=e.world.clock.now()
            await e.world.run(lambda tx: slices.give_back_idle(tx,now),cell)
        elif what=="retry": await e.world.run(reward.retry_awaiting,cell)
        elif what=="fund" and rnd.random()<.1: await e.fund(c,"1.00")
        await check(e,c)
    n=await f.drain()
    assert n is not None, "livelock"
    # what waits now, after asking again
    e.world.clock.advance(timedelta(minutes=6))
    for _ in range(2):
        n=await f.drain()
        assert n is not None, "livelock 2"
        e.world.clock.advance(timedelta(minutes=6))
    n=await f.drain()
    assert n is not None, "livelock 3"
    await check(e,c)
    assert await in_transit(e,c)==0
    left=sum([await e.budget(c,x) for x in (1,2,3)])
    w=await waiting(e)
    print(policy,"left",left,"waiting",w)
    assert not w or left < min(a for *_,a in w), "waits though there is money"
