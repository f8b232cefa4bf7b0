"""The course's exercises: checks of a learner's queries, progress, and editions for learners and teachers."""
