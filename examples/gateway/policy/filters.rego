# Which parameters of a tool call are taken out before the tool sees them.
package gateway.filters

import rego.v1

import data.gateway.authz

# Secrets are for roles that may see them.
removed contains parameter if {
	some parameter in authz.tool.secret_parameters
	not sees_secrets
}

sees_secrets if {
	some name in authz.granting
	data.roles[name].sees_secrets
}
