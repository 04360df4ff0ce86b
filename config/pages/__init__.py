"""Pages of runs, and `/api/runs`, in the same server as Flower and under its login."""
