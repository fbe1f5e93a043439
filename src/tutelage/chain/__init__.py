"""The chain of stages that makes a teacher and a student."""
