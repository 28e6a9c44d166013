"""The benchmark suite: what each promise about speed costs, against its limit or an alternative.

    command     picks the rows, runs them, shows and writes the report
    rows        one module a family of rows; `catalogue` lists them
    measure     slices in turn, medians, latencies
    report      rows, checks, the machine; JSON, Markdown, a table
    machine     what it ran on, and which cores it kept to
    server      a PostgreSQL of its own, databases copied from a template
    world       a cell with a million funded accounts
    workload    which accounts, which amounts: Zipf, hot, mixed
    caller      a process that posts, or copies, when told to
    model       the books as plain Python dictionaries, to hold the verdicts against
    checks      the books are proven, the verdicts compared

Nothing in `paymaster` needs it but the command `paymaster bench`.
"""
