"""Parsl on SLURM: up to four nodes with four GPUs each; the command itself runs on a login node.

Partition, account and what makes the environment ready are those of your cluster.
"""

from parsl import Config, HighThroughputExecutor
from parsl.providers import SlurmProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            label="slurm",
            available_accelerators=4,
            provider=SlurmProvider(
                partition="gpu",
                account="me",
                nodes_per_block=1,
                max_blocks=4,
                walltime="08:00:00",
                scheduler_options="#SBATCH --gpus-per-node=4",
                worker_init="source ~/lofit/bin/activate; export HF_HUB_OFFLINE=1",
            ),
        )
    ],
    retries=2,
)
