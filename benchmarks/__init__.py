"""Measurements beside other toolkits."""
