"""So that a checkout, and the environments that setup.sh makes, answer ``from client import YADTQClient``."""
from yadtq import *  # noqa: F403
from yadtq import __all__ as __all__
