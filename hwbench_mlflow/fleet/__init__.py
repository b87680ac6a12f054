"""Many machines: who offers which device, and which piece of work is done where. The only importer of ray.

Owns what a node says of itself when it joins, the resources that stand for its devices, and the placement of pieces of
work: one at a time on a device, again elsewhere when a node is lost, and never handed in twice. Ray carries bytes and
runs a function on a node; what the pieces are, and where their results go, is the caller's. Imports no tracking store.

A device is one resource of capacity 1 (``hwbench:cpu``, named by its lock), so that two batches, and two programs of
anybody's that ask for it, take turns. The runner's own lock on the node stands behind it. A piece that waits for a
device which somebody else holds is taken back, and given to a free one of its kind, if it has not begun.

Ray trusts whoever reaches its ports: a fleet is started with Ray's token authentication, or not at all.

:mod:`.joining` makes a machine a node; :mod:`.on_node` runs on one, and is where nodes ask whether they still may;
:mod:`.placing` decides what is done where; :mod:`.connection` is whoever runs a batch in the fleet.
"""
