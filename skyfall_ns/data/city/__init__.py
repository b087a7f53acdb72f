"""A synthetic georeferenced city, delivered as a vendor would, with its exact truth."""

from skyfall_ns.data.city.deliver import CityDelivery, write_city

__all__ = ["CityDelivery", "write_city"]
