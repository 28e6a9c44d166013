"""From something happened to something owed: campaigns, tasks, events, verification, rewards.

`machine` has the lives of a task and of a reward, `intake` turns bytes into events, `record` turns
events into state and money in one transaction, `slice` brings budgets to the cells of the users.
"""
