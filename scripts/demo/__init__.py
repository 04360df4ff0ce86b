"""The main job, told on real parts that the demo starts and ends itself."""
