"""Parsl on one machine with four GPUs: a worker on each, which sees it alone."""

from parsl import Config, HighThroughputExecutor
from parsl.providers import LocalProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            label="gpus",
            available_accelerators=4,
            address="127.0.0.1",
            provider=LocalProvider(),
        )
    ],
    retries=2,  # of a job whose worker was lost
)
