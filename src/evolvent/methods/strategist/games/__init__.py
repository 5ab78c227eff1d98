"""The games: rules in a readable reference form and in a compiled form that gives the same games, bit for bit."""
