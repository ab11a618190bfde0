"""Fits a router from traces: rewards, calibration, the policy and its losses, the report."""
