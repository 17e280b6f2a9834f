"""Folders and large images embedded and segmented by several processes, through dask.

`distributed` is imported only when workers are asked for: it is an optional extra.
"""
