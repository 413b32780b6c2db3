"""The speed of the engine's pieces on this CPU, and the floors that they put under layers."""
