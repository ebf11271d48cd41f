# The one document that the gateway asks for.
package gateway

import rego.v1

import data.gateway.authz
import data.gateway.filters

default sensitivity := "default"

sensitivity := authz.tool.sensitivity

decision := {
	"allow": true,
	"reason": sprintf("granted by role %s", [min(authz.granting)]),
	"sensitivity": sensitivity,
	"remove_parameters": sort(filters.removed),
} if {
	count(authz.denials) == 0
} else := {
	"allow": false,
	"reason": min(authz.denials),
	"sensitivity": sensitivity,
	"remove_parameters": [],
}
