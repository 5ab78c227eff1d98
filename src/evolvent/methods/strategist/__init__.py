"""Strategist: readable skills for games, learnt from self-play by search and reflection."""
