"""Runs the user's training at one size, safely."""
