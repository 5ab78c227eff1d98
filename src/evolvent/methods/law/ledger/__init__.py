"""The erasure ledger: requests that come one by one, in the memory of two matrices a block, with receipts."""

from evolvent.methods.law.ledger.ledger import Ledger
from evolvent.methods.law.ledger.releasing import Release, Verification, release, verify

__all__ = ["Ledger", "Release", "Verification", "release", "verify"]
