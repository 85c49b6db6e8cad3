"""Giving a model to a fleet in steps, and rolling it back: bytes and figures in, decision out.

`waves` (who is next), `gates` (is it good?), `controller` (what happens now, pure), `log` (what happened, in a hash
chain), `state` (SQLite), `plan` (the file an operator writes). docs/how-to/rollout.md starts here.
"""
