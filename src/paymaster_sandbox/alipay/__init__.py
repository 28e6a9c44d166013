"""A wallet of the kind that Alipay is: transfers, pay-in, authorisation and bills.

certificates  roots, the provider's own certificates, and their serial numbers
signing       what is signed, on both of its interfaces
wire          refusals, amounts and times as the provider writes them
apps          its customers, their accounts, and the people with an Alipay account
transfers     money out: to accounts and to bank cards
trades        money in: orders that people pay, and refunds
oauth         people who let an app know who they are
bills         the account log and the files made of it
notices       what it tells its customers, and how often
trouble       how it misbehaves on demand
methods       which function answers which method
gateway       the old interface: one address, signed parameters
rest          the new interface: addresses, signed requests
people        what a payer does at the provider's own pages
control       knobs for tests
provider      all of it put together
"""
