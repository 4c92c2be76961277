"""`python -m mcts_ray`: the same as the console script `mcts-ray`."""

from mcts_ray.cli import main

if __name__ == "__main__":
    main()
