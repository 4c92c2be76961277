"""Fusing sibling particles into one: the transport of their innovations. The weights are the tree's (`mcts_ray.tree.weights`)."""
