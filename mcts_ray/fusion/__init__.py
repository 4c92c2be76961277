"""Fusing sibling particles into one, one mode a file. The weights are the tree's (`mcts_ray.tree.weights`), which mode is asked for
the unit's (`Work.fuse`), and `mcts_ray.fusion.fuser` puts both together."""
