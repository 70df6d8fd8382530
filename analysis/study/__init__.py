"""The spine of experiments: cells, the steps they need, and the store that they fill."""
