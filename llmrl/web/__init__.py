"""The app's pages. They show; what they show is worked out by llmrl.serving and the rooms below it."""
