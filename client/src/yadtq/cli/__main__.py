"""`python -m yadtq.cli`: the same as `yadtq`, where the script is not on the path."""
from yadtq.cli import main

main()
