"""Tiers: where chunks of a pool lie that are not, or not only, in its memory.

_tier     what all tiers are: threads, back-pressure, figures
_jobs     what a tier is asked, and what it answers
_file     one preallocated file on this machine
_object   an object store
_mooncake a Mooncake Store
_frame    what stands before a chunk where chunks are objects
"""

from ringcast.pool.tiers._file import FileTier, FileTierStats
from ringcast.pool.tiers._mooncake import MooncakeTier, MooncakeTierStats
from ringcast.pool.tiers._object import ObjectTier
from ringcast.pool.tiers._tier import Tier, TierStats

__all__ = ["FileTier", "FileTierStats", "MooncakeTier", "MooncakeTierStats", "ObjectTier", "Tier", "TierStats"]
