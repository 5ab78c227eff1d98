"""Monte Carlo tree search that turns a value heuristic into moves."""
