"""A model that was made elsewhere: what its graph says, what its owner says, and the core that devices run.

`facts` reads the graph, `propose` adds what the owner says, `declaration` is both as a file (`model.toml`),
`adapt` makes the core, `trial` runs the graph and the core side by side, `folder` keeps model and declaration together.
"""
