"""What skills are compared with: values learnt from self-play by regression and by a network."""
