"""Whether what users are owed is there: per currency, and per account that pays.

figures   what is owed, what is there, what is on its way: pure sums
look      the figures of all cells, each from one snapshot; reads system accounts only
guard     no payment leaves an account that has not got it
forecast  when an account runs dry, from what left it lately
alert     tells once when users are owed more than there is, and when it is there again
"""
