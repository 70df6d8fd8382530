"""Parsl on Kubernetes: pods with one GPU each, from an image that has lofit-lens[cluster] in it.

The command runs in a pod of the same cluster, with `pip install kubernetes`; image and secret are yours.
"""

from parsl import Config, HighThroughputExecutor
from parsl.addresses import address_by_route
from parsl.providers import KubernetesProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            label="pods",
            max_workers_per_node=1,
            address=address_by_route(),
            provider=KubernetesProvider(
                image="registry.example/lofit-lens:latest",
                namespace="default",
                max_blocks=8,
                init_cpu=2,
                max_cpu=4,
                init_mem="32Gi",
                max_mem="64Gi",
                worker_init="export HF_HUB_OFFLINE=1",
            ),
        )
    ],
    retries=2,
)
