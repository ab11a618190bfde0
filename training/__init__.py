"""Fits the router from traces with PyTorch (SFT, then SoftRankPO), and measures what it gives."""
