"""Views, height maps and geometric losses."""
