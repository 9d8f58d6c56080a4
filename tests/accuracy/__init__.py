"""Who is right? tunowner and baselines before real sockets of processes that tell their own truth.

`scenarios` make sockets and say who holds them, `contestants` answer, `model` judges, `table` prints.
`python -m tests.accuracy` prints the table; a wrong answer of tunowner fails a test.
"""
