"""Files in, graphs out. Importers translate; they never compute."""
