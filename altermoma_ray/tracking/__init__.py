"""MLflow: a parent run for a search, a child run for each trial, the registered champion, the leaderboard.

Only the search's driver talks to MLflow. Workers write results into the storage folder
(:class:`altermoma_ray.tracking.result.TrialResult`), which needs neither the tracking server nor its credentials.
"""
