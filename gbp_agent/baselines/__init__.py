"""Agents to compare with: random actions, behaviour cloning, Stable-Baselines3's.

random.py   uniform actions, and none
cloning.py  behaviour cloning on a world model's latents
sb3.py      what Stable-Baselines3's algorithms need, and their trained policies
files.py    one file per trained baseline
"""

from .cloning import CloningAgent
from .files import baseline_names, load_baseline
from .random import NoOpAgent, RandomAgent

__all__ = ["CloningAgent", "NoOpAgent", "RandomAgent", "baseline_names", "load_baseline"]
