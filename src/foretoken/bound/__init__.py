"""How far from the optimum: what the best possible rule would accept, and what each rule does.

One position at a time: target law p, draft law q, k drafted tokens. `optimum` is the ruler,
`rates` the rules, `pairs` takes (p, q) from models or files, `report` sums up, `plot` draws.
"""
