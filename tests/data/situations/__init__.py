"""What strangers bring: folders rebuilt as their tools write them, from public reports, and what must come of each.

`situation.py` says how one is written down; every other module holds one kind of them.
"""
