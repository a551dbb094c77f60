"""The engine room: runs the user's training at one size, safely."""
