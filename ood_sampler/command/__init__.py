"""What a command says: read, checked and put in Hydra's words before anything runs."""
