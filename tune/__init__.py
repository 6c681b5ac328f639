"""The search: cDAL settings proposed by Optuna, trained by Ray, recorded in Parquet. Import its modules by name."""
