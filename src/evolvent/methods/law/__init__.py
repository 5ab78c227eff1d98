"""LAW: large-scale knowledge washing by closed-form edits of MLP down-projections."""
