"""Two short passages with pairs, a test wording of some, and general text."""

from __future__ import annotations

PASSAGES = [
    {"id": "bank", "text": "The Vosk Bank was opened by Ada Pell. It has 40 rooms."},
    {"id": "cup", "text": "The Orlo Cup was won by Team Kiv. The final was in 1951."},
]
PAIRS = [
    {"passage": "bank", "question": "Who opened the Vosk Bank?", "answer": "Ada Pell"},
    {"passage": "bank", "question": "How many rooms has the Vosk Bank?", "answer": "40"},
    {"passage": "cup", "question": "Who won the Orlo Cup?", "answer": "Team Kiv"},
    {"passage": "cup", "question": "When was the final of the Orlo Cup?", "answer": "1951"},
]
TEST = [
    {"passage": "bank", "question": "By whom was the Vosk Bank opened?", "answer": "Ada Pell"},
    {"passage": "cup", "question": "In which year was the Orlo Cup's final?", "answer": "1951"},
]
GENERAL = [
    f"The company said on day {i} that its profit rose and the shares fell after the news was out." for i in range(6)
]
