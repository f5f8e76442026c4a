//! The control plane: who is there (membership), who is active (election), and the shell that gives them time.
