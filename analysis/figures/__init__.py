"""Plotly figures of results, one file each; none changes a global setting of plotly."""
