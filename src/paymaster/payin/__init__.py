"""Taking money in: a sponsor's for a campaign, a user's for his wallet.

machine    states and moves of a charge and of a refund - read this first
request    ask for a payment; nothing has left this machine yet
outcome    the one place where it becomes known that somebody has paid, and is credited
refund     give money back, and what became of that
work       one step of a charge: open it, ask about it, close it
refunding  one step of a refund: order it, ask about it
step       what both have in common: the call, and the next try
decide     what a person found out about a refund
late       warnings of what is long unknown
run        the loop of it: claim, call the provider outside any transaction, conclude
view       as other packages read them
booking    the lines of statements that show charges and refunds
"""
