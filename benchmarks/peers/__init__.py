"""Task queues of other projects and YADTQ, measured side by side: `python -m benchmarks.peers`."""
