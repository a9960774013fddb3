//! Checks and prepares a node's hugepages, IOMMU and NIC driver.
