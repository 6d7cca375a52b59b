"""What pages need to serve many visitors: a thread that computes, models that are shared, limits, and what there is to show.

Nothing here knows how it is shown.
"""
