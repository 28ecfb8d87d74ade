"""Engine room: token batches through a model, reduced inside hooks. Knows no token length, no noun, no experiment."""
